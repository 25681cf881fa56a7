"""What each verb of the command line does; a module is imported only when its verb is called."""
