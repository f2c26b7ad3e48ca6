"""Many pictures: killed, resumed, and a row of each in the end."""
