# Baked into the image: changes here are made in the profile's dot-files, not on the device.
PS1='\u@\h:\w\$ '
alias readings='mosquitto_sub -v -t "sensors/#"'
