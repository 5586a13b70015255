"""The conditional flow of i2v-cINN (CVPR 2021, arXiv 2105.04551)."""
