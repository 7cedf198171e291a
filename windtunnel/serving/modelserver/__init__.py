"""What runs in a version's model server, here or in a pod, and the files it is started from."""
