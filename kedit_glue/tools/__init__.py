"""One module a tool. Each is imported only in the process that runs its stage."""
