"""The adversary, as code: what a parent, a network or a KMS could try, and the proof that one check each stops it."""
