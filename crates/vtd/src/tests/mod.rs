mod boot;
mod machine;
