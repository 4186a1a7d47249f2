"""What is fed: packed sets, sample order, decoding, augmentation and the streams made of them."""
