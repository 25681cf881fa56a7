"""The verbs of the command line that this method adds."""
