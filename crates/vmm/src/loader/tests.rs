mod bzimage;
mod elf;
mod files;
mod hostile;
mod images;
mod multiboot;
mod pvh;
