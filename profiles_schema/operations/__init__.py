"""What an operator runs: each verb of the command line is one function here."""
