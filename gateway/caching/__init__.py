"""Answers that are given again: kept ones, and those of an equal request that is under way."""
