mod disk;
mod faults;
mod hostile;
mod open;
mod requests;
