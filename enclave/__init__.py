"""What is measured: the appliance inside the enclave, from boot to the sealed answer."""
