"""What leaves the program: reports, decided masks, the command line of a run."""
