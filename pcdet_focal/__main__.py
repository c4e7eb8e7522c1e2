"""``python -m pcdet_focal COMMAND``: the console command where it is not on the path."""

from .commands import main

main()
