"""``python -m pcdet_focal.integrations.openpcdet SCRIPT ARGS...``: run a script that says ``import pcdet`` on this
package.
"""

from .run import main

main()
