"""OpenPCDet's code and this package, together, without a change to either.

* ``python -m pcdet_focal.integrations.openpcdet SCRIPT ARGS...`` runs a script that says ``import pcdet`` on this
  package.
* :func:`alias` does the same for the process at hand.
* :func:`patch` and :func:`unpatch`, or ``with patched():``, put this package's losses into an OpenPCDet that is
  installed.
"""

from .alias import alias
from .patching import patch, patched, unpatch

__all__ = ["alias", "patch", "patched", "unpatch"]
