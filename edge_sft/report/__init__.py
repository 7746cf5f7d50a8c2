"""Reports: self-contained HTML pages and the numbers on them in plant terms."""
