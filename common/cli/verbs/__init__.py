"""The verbs of the command line; a module is imported only when its verb is called."""
