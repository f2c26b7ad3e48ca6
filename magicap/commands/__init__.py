"""The command line's commands, a module each: ``add(commands)`` declares its options, ``run`` does it."""
