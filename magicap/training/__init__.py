"""Losses and the loop that the recipes share. Needs the ``train`` extra."""
