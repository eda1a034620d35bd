"""How commands and files reach the place where a scheduler is spoken: this machine, or a login node."""
