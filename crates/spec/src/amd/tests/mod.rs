mod command;
mod device_table;
mod irte;
mod layout;
