mod descriptor;
mod irte;
mod layout;
mod tables;
