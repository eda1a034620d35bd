"""Where settings come from: command line, environment, ini, profiles."""
