"""What a fit is made of besides net, loss and data; `segfocal.task` puts it together."""
