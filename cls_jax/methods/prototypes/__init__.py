"""Methods that classify by class means or cosines to class vectors."""
