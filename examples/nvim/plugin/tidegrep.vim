" :Tidegrep PATTERN [DIRECTORY]  searches the files of a project for a Lua pattern, on all cores; :copen shows what is found, as it is found.
command! -nargs=+ Tidegrep lua require("tidegrep").grep(<f-args>)
