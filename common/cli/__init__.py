"""The command line: commands, their verbs, work directories, commands made of several runs."""
