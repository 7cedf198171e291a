"""A plan flown thousands of times before it flies: scenarios, drawn traffic, other tools' rules, numbers, a page."""
