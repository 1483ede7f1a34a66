"""Measures of any clip, whoever made it: nothing is known of what it shows."""
