"""System checks of the providers' rows and secrets."""
