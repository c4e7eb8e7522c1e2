"""The one exception for mistakes that a user can make and mend."""


class InputError(ValueError):
    """Something outside the program is wrong: a file, a config entry, a command line, a data set.

    The message is one complete sentence or two for the person at the keyboard: what is wrong, where (file, line, key path, frame id) and
    what would be right. The command lines in ``tools/`` print it without a traceback and exit with status 2.
    """
