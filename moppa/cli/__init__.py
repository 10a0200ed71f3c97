"""The command `moppa`: every script under one roof, each in a module of this package."""
