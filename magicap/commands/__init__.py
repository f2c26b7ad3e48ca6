"""The command line's commands, a module each: its ``Options``, ``add`` declares them, ``run`` does it."""
