"""The kinds of credential that a call may carry, one a file; the desk chooses by the token's beginning."""
