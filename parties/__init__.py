"""The parties of a job: whoever has an address and a person behind it."""
