"""What people already have: samples and native logs of evaluations, read into curve tables."""
