"""Statistics: fixed-size states that update on the device, merge by addition, and become plain numbers at the end."""
