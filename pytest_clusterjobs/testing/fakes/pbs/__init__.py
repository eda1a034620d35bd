"""OpenPBS that is not there: its commands as they were recorded from the newest commit of 2026 and from 23.06.06."""
