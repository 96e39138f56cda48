"""What this machine can do at best: the limits that the times of the suite `mpc` are held against."""
