"""The commands behind `segfocal COMMAND`, each a function of the words after it."""
