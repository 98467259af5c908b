module quicksilver

go 1.19
