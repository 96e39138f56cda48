"""Ring-LWE: rings of polynomials, keys, encryption of phases, key switching, and residues on the wire."""
