"""scikit-learn's scanned digits: their English words, and which scans are the test set."""

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LEVELS = 16
# the last scans of the set
TEST_SCANS = 360
