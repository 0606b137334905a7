"""Evaluation: scores of a confusion matrix, reports and pictures of them."""
