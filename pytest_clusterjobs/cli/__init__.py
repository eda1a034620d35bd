"""The face towards the shell: ``clusterjobs VERB``."""
