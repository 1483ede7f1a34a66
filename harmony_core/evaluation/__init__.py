"""Joint generators compared on one list of items: what is asked for, who makes it, what is measured, what is reported."""
