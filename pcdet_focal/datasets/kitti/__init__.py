"""The KITTI 3-D object benchmark: its folder, its labels, the info files and object database made of them."""
