"""What more than one model trains with: losses, the networks in them, augmentation, optimiser steps."""
