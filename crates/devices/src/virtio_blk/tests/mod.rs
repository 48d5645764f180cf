mod disk;
mod faults;
mod open;
mod requests;
