"""What people read: traces and pages."""
