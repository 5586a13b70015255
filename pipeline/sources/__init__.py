"""What other people's files hold: archives, hosts, videos, images, TensorFlow's files, and the clips in them."""
