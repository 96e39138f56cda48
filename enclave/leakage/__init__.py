"""What a job let out: tests of everything opened, and the report. Attacks on released outputs will live here too."""
